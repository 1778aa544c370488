//! The stored request of a request: what of it is kept. Pure: time and chance are arguments.

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

/// What a route and a moment add to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) route: &'a str,
    /// CloudEvents `source`.
    pub(super) source: &'a str,
    /// The secret of the store's hashes.
    pub(super) hash_key: &'a HashKey,
    /// Chance.
    pub(super) secret: [u8; SECRET_BYTES],
    /// Milliseconds since 1970.
    pub(super) now: u64,
}

/// What is stored of `request`, whose body is in memory.
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

/// The target that is stored: without what is a token in its query.
fn target(uri: &Uri, settings: &Settings) -> PathAndQuery {
    let asked = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let Some(written) = asked.query() else { return asked };
    let path = asked.path();
    let kept = match &*query::without(written, &settings.parameters) {
        kept if kept == written => return asked,
        "" => PathAndQuery::try_from(path),
        kept => PathAndQuery::try_from(format!("{path}?{kept}")),
    };
    // A part of what was a target is one.
    kept.unwrap_or(PathAndQuery::from_static("/"))
}

/// The fields that are stored: not those of this connection, not the framing, which is made anew, and
/// neither credentials of the client nor what the gateway itself adds in secret.
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

/// A client that says by its key that a request is the same as one before gets the same one.
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

/// Whether `request` has a key of either kind: by what is stored under it, it may have to be stored.
pub(super) fn is_keyed(settings: &Settings, request: &Request) -> bool {
    let Request { parts, body, cx } = request;
    let json = || body.as_full().and_then(|body| serde_json::from_slice(body).ok());
    let json = if settings.selects_json() { json() } else { None };
    let input = Input { body: json.as_ref(), ..Input::new(parts, cx) };
    idempotency::key(&parts.headers, &settings.key_field).is_ok_and(|key| key.is_some())
        || settings.key.as_ref().is_some_and(|key| key.extract(&input).is_some())
}

/// Whether two are one request, sent again: all that its sender has a hand in.
pub(super) fn is_same(first: &StoredRequest, again: &StoredRequest) -> bool {
    let asked = |it: &StoredRequest| (it.method.clone(), it.target.clone(), it.principal);
    asked(first) == asked(again) && first.body == again.body
}
