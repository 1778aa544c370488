//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers): what a client may do.
//! Pure.
//!
//! Numbers until there is an answer to put them on; two allocations.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use itoa::Buffer;
use smallvec::SmallVec;

/// The policies that clients are told of, in their order.
#[derive(Debug)]
pub struct Told {
    policy: HeaderValue,
    /// `"per-user";r=`, from the second on behind `, `.
    starts: Box<[Box<[u8]>]>,
}

/// The fields of every answer to one request, about the limits before `auth` or after it.
#[derive(Clone, Debug)]
pub struct RateLimitFields {
    told: Arc<Told>,
    left: SmallVec<[Left; 2]>,
}

/// What a client has left under one policy.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// Requests that would pass now.
    pub remaining: u32,
    /// Seconds until the bucket is full again.
    pub reset: u64,
}

// === impl Told ===

impl Told {
    /// Policies with these names, and the parameters of each: `q=40;w=2`. `None` if there are none,
    /// or if a name cannot stand in a field.
    pub fn new<'a>(policies: impl Iterator<Item = (&'a str, String)>) -> Option<Self> {
        let (mut all, mut starts) = (String::new(), Vec::new());
        for (name, parameters) in policies {
            let comma = if all.is_empty() { "" } else { ", " };
            all.extend([comma, "\"", name, "\";", &parameters]);
            starts.push(format!("{comma}\"{name}\";r=").into_bytes().into());
        }
        // In memory of its own: each request clones it, which counts a reference.
        let policy = HeaderValue::from_maybe_shared(Bytes::from_owner(all)).ok()?;
        (!policy.is_empty()).then(|| Self { policy, starts: starts.into() })
    }
}

// === impl RateLimitFields ===

impl RateLimitFields {
    /// `left` is what is left under each policy of `told`.
    pub fn new(told: Arc<Told>, left: impl IntoIterator<Item = Left>) -> Self {
        Self { told, left: left.into_iter().collect() }
    }

    /// `RateLimit-Policy`: `"per-user";q=40;w=2`.
    pub fn policy(&self) -> HeaderValue {
        self.told.policy.clone()
    }

    /// `RateLimit`: `"per-user";r=12;t=1`.
    pub fn state(&self) -> HeaderValue {
        let mut state = Vec::new();
        for (start, left) in self.told.starts.iter().zip(&self.left) {
            let (mut remaining, mut reset) = (Buffer::new(), Buffer::new());
            let parts = [
                start,
                remaining.format(left.remaining).as_bytes(),
                b";t=",
                reset.format(left.reset).as_bytes(),
            ];
            // Exact: memory with room to spare would have to be moved or shared.
            state.reserve_exact(parts.iter().map(|part| part.len()).sum());
            for part in parts {
                state.extend_from_slice(part);
            }
        }
        // It has nothing that `policy` has not, but digits.
        HeaderValue::from_maybe_shared(Bytes::from(state)).unwrap_or(HeaderValue::from_static(""))
    }
}
