//! Builds the stored request from a request. Pure: time and randomness are arguments.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, Uri,
    header::{CONTENT_LENGTH, EXPECT},
    uri::PathAndQuery,
};

use super::settings::Settings;
use crate::{
    events::{
        queue::codec::{HashKey, Role},
        request::{Fingerprint, SECRET_BYTES, StoredRequest},
    },
    http::{Request, hop_by_hop, idempotency, query, selector::Input},
};

/// What the route and the moment contribute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) route: &'a str,
    /// CloudEvents `source`.
    pub(super) source: &'a str,
    /// The secret of the store's hashes.
    pub(super) hash_key: &'a HashKey,
    /// Random bytes.
    pub(super) secret: [u8; SECRET_BYTES],
    /// Milliseconds since 1970.
    pub(super) now: u64,
}

/// The stored form of `request`, whose body is in memory.
pub(super) fn stored(settings: &Settings, origin: Origin<'_>, request: &Request) -> StoredRequest {
    let Request { parts, body, cx } = request;
    let body = body.as_full().cloned().unwrap_or_default();
    let json = if settings.selects_json() { serde_json::from_slice(&body).ok() } else { None };
    let input = Input { body: json.as_ref(), ..Input::new(parts, cx) };
    let key = settings.key.as_ref().and_then(|key| key.extract(&input)).map(Cow::into_owned);
    let Origin { route, source, hash_key, secret, now } = origin;
    let principal = cx.principal().map_or("", |principal| &principal.name);
    let ttl = u64::try_from(settings.status_ttl.as_millis()).unwrap_or(u64::MAX);
    StoredRequest {
        method: parts.method.clone(),
        target: target(&parts.uri, settings),
        headers: fields(&parts.headers, settings),
        body,
        key: key.map(Bytes::from),
        dedup_key: dedup_key(&parts.headers, settings, &origin, principal),
        route: route.into(),
        source: source.into(),
        principal: Fingerprint::of(hash_key, principal),
        secret,
        time: now,
        status_until: now.saturating_add(ttl),
        may_redeliver: settings.may_redeliver,
        key_field: settings.key_field.clone(),
    }
}

/// The target without query parameters that carry tokens.
fn target(uri: &Uri, settings: &Settings) -> PathAndQuery {
    let asked = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let Some(written) = asked.query() else { return asked };
    let path = asked.path();
    let kept = match &*query::without(written, &settings.parameters) {
        kept if kept == written => return asked,
        "" => PathAndQuery::try_from(path),
        kept => PathAndQuery::try_from(format!("{path}?{kept}")),
    };
    // Part of a valid target is a valid target.
    kept.unwrap_or(PathAndQuery::from_static("/"))
}

/// The fields that are stored: without hop-by-hop fields, framing (which is made anew), client
/// credentials and secret fields that the gateway adds.
fn fields(headers: &HeaderMap, settings: &Settings) -> HeaderMap {
    let mut kept = headers.clone();
    hop_by_hop::strip(&mut kept);
    for name in settings.credentials.iter().chain(&[CONTENT_LENGTH, EXPECT]) {
        kept.remove(name);
    }
    let is_shown = |value: &http::HeaderValue| !value.is_sensitive();
    if kept.values().all(is_shown) {
        return kept;
    }
    let shown = kept.iter().filter(|(_, value)| is_shown(value));
    shown.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The dedup key: a client that repeats its key gets the request stored first.
fn dedup_key(
    headers: &HeaderMap,
    settings: &Settings,
    origin: &Origin<'_>,
    principal: &str,
) -> Option<Bytes> {
    let key = idempotency::key(headers, &settings.key_field).ok().flatten()?;
    let parts = [origin.route, principal, &*key].map(str::as_bytes);
    let hash = origin.hash_key.hash(Role::Idempotency, &parts);
    Some(Bytes::copy_from_slice(&hash.to_le_bytes()))
}

/// Whether `request` has a key of either kind, so that earlier stored requests decide about it.
pub(super) fn is_keyed(settings: &Settings, request: &Request) -> bool {
    let Request { parts, body, cx } = request;
    let json = || body.as_full().and_then(|body| serde_json::from_slice(body).ok());
    let json = if settings.selects_json() { json() } else { None };
    let input = Input { body: json.as_ref(), ..Input::new(parts, cx) };
    idempotency::key(&parts.headers, &settings.key_field).is_ok_and(|key| key.is_some())
        || settings.key.as_ref().is_some_and(|key| key.extract(&input).is_some())
}

/// Whether both are the same request sent twice: compares everything its sender controls.
pub(super) fn is_same(first: &StoredRequest, again: &StoredRequest) -> bool {
    let asked = |it: &StoredRequest| (it.method.clone(), it.target.clone(), it.principal);
    asked(first) == asked(again) && first.body == again.body
}
