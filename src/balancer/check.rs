//! Sends the probes of active health checks from control, one task per endpoint.
//!
//! A probe uses the endpoint's own transport and a dedicated connection. [`health`] judges a series
//! of probes. The gRPC health protocol is two messages of one field each, encoded and decoded here
//! by hand.

use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use tokio::time::{self, Instant};

use crate::{
    balancer::{
        group::Shared,
        health::{self, Check},
        set::Member,
    },
    error::Error,
    http::Body,
    upstream::{Endpoint, Transport, check},
};

/// Identifies us in the endpoint's own log.
const USER_AGENT: HeaderValue = HeaderValue::from_static("sluice-health-check");
/// The maximum length of a reason: operators see it, and the endpoint chose part of it.
const MAX_REASON: usize = 200;
/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Probes `member` until its group ends, or another configuration checks differently.
pub(super) async fn follow(member: Member, settings: Arc<health::Settings>, group: Weak<Shared>) {
    let Some(transport) = group.upgrade().map(|shared| shared.transport.clone()) else { return };
    loop {
        let next = {
            let mut record = member.standing.record();
            if !record.health.is_under(&settings) {
                return;
            }
            record.health.next(&settings, Instant::now(), fastrand::f64())
        };
        time::sleep_until(next).await;
        let probe = probe(&settings.check, &transport, &member.endpoint);
        let result = match time::timeout(settings.timeout, probe).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer in {:?}", settings.timeout)),
        };
        let Some(shared) = group.upgrade() else { return };
        shared.checked(&member, result.map_err(|reason| short(&reason)), &settings, Instant::now());
    }
}

async fn probe(check: &Check, transport: &Transport, endpoint: &Endpoint) -> Result<(), String> {
    match check {
        Check::Tcp => check::connect(transport, endpoint).await.map_err(|error| error.to_string()),
        Check::Http { path, expect } => {
            let request = request(Method::GET, path, Body::empty())?;
            let asked = check::ask(transport, endpoint, request, check::Read::Head).await;
            let status = asked.map_err(|error| error.to_string())?.status.as_u16();
            if expect.iter().any(|range| range.contains(&status)) {
                Ok(())
            } else {
                Err(format!("status {status}"))
            }
        }
        Check::Grpc { service } => {
            let path = "/grpc.health.v1.Health/Check";
            let mut request = request(Method::POST, path, Body::full(ask_health(service)))?;
            let headers = request.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            let asked = check::ask(transport, endpoint, request, check::Read::Whole).await;
            judge_grpc(&asked.map_err(|error: Error| error.to_string())?)
        }
    }
}

fn request(method: Method, path: &str, body: Body) -> Result<http::Request<Body>, String> {
    let mut request = http::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| format!("`{path}` is not a path"))?;
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    Ok(request)
}

/// A `HealthCheckRequest { service = 1 }` as a gRPC message.
fn ask_health(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    // Service names are short.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    loop {
        let [.., low] = value.to_be_bytes();
        value >>= 7;
        if value == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

fn judge_grpc(answer: &check::Answer) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("status {}", answer.status.as_u16()));
    }
    // Without a message the status is among the fields of the head.
    let status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    match status.and_then(|status| status.to_str().ok()) {
        Some("0") => {}
        Some(other) => return Err(format!("grpc-status {other}")),
        None => return Err("no grpc-status".to_owned()),
    }
    match serving_status(&answer.body) {
        Some(SERVING) => Ok(()),
        Some(0) => Err("UNKNOWN".to_owned()),
        Some(2) => Err("NOT_SERVING".to_owned()),
        Some(3) => Err("SERVICE_UNKNOWN".to_owned()),
        Some(other) => Err(format!("serving status {other}")),
        None => Err("not a HealthCheckResponse".to_owned()),
    }
}

/// `status` of a `HealthCheckResponse { status = 1 }`: the first message of `body`. Unknown fields
/// are skipped; a missing one is 0.
fn serving_status(body: &[u8]) -> Option<u64> {
    let [0, a, b, c, d, rest @ ..] = body else { return None };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    let mut message = rest.get(..length)?;
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = take_varint(&mut message)?,
            (_, 0) => drop(take_varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn short(reason: &str) -> Box<str> {
    let end = reason.char_indices().nth(MAX_REASON).map_or(reason.len(), |(at, _)| at);
    reason[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderMap;
    use proptest::prelude::*;

    fn answer(body: &'static [u8], status: &'static str) -> check::Answer {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        check::Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body),
            trailers,
        }
    }

    #[test]
    fn a_health_request_is_framed() {
        assert_eq!(&ask_health("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&ask_health("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(300);
        assert_eq!(ask_health(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_serving_is_well() {
        assert_eq!(judge_grpc(&answer(&[0, 0, 0, 0, 2, 8, 1], "0")), Ok(()));
        let fails = |body, status| judge_grpc(&answer(body, status)).unwrap_err();
        assert_eq!(fails(&[0, 0, 0, 0, 2, 8, 2], "0"), "NOT_SERVING");
        assert_eq!(fails(&[0, 0, 0, 0, 0], "0"), "UNKNOWN");
        assert_eq!(fails(&[0, 0, 0, 0, 2, 8, 1], "5"), "grpc-status 5");
        assert_eq!(fails(&[], "0"), "not a HealthCheckResponse");
        assert_eq!(fails(&[0, 0, 0, 0, 9, 8, 1], "0"), "not a HealthCheckResponse");
        let unknown_fields = &[0, 0, 0, 0, 7, 0x12, 1, b'x', 8, 1, 0x18, 5];
        assert_eq!(judge_grpc(&answer(unknown_fields, "0")), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(body: Vec<u8>) {
            serving_status(&body);
        }
    }
}
