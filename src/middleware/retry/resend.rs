//! What may be sent again, and what permits it.
//!
//! Invariant: **nothing unsafe is sent twice** if an upstream may have seen it once. Types enforce
//! it: the layer sends a first request, and after that nothing but a [`Resend`]. There are two ways
//! to get one:
//!
//! - [`Resend::unsent`], with the [`Unsent`] that an error yields only if not one byte left (class
//!   A): whatever the method.
//! - [`Resend::repeat`], from a copy made with a [`Repeatable`], which exists only for a method
//!   that may be repeated, or for a key that the upstream honours (classes B and C).
//!
//! So a POST of class B cannot become a `Resend`, whatever settings, counts and budgets say. The
//! only other way to a [`Repeatable`] is [`Repeatable::by_key`], for a request whose upstream
//! honours its idempotency key; no `bool` can switch this.

use http::{HeaderMap, HeaderValue, Method};

use crate::{
    error::Unsent,
    http::{
        Body, Context, PackedHead, Request, fields, idempotency::KeyHonoured, is_repeatable,
        names::X_SLUICE_ATTEMPT, replay::Replay,
    },
};

/// The most attempts of one request.
pub const MAX_ATTEMPTS: u32 = 10;

const NUMBERS: [&str; MAX_ATTEMPTS as usize] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];

/// Permission to send a request that its upstream may have seen already.
#[derive(Debug)]
pub struct Repeatable(());

/// A copy of a request whose first attempt is in progress. It cannot be sent by itself.
pub(super) struct Kept {
    head: PackedHead,
    body: Replay,
    cx: Context,
    repeatable: Option<Repeatable>,
}

/// A request that may be sent although it was attempted before.
pub(super) struct Resend(Request);

// === impl Repeatable ===

impl Repeatable {
    /// Given because the upstream honours the request's key.
    pub fn by_key(_: &KeyHonoured) -> Self {
        Self(())
    }

    /// Given if the method is idempotent.
    pub fn by_method(method: &Method) -> Option<Self> {
        is_repeatable(method).then_some(Self(()))
    }
}

// === impl Kept ===

impl Kept {
    /// Copies the head of `request` and keeps what can be kept of its body.
    pub(super) fn of(request: &mut Request) -> Self {
        Self {
            head: PackedHead::of(&request.parts),
            body: Replay::of(&mut request.body),
            cx: request.cx.clone(),
            repeatable: Repeatable::by_method(&request.parts.method)
                .or_else(|| request.cx.key_honoured().map(Repeatable::by_key)),
        }
    }

    /// The context of the exchange.
    pub(super) fn cx(&self) -> &Context {
        &self.cx
    }

    /// Whether the whole body is still available.
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_whole()
    }

    /// Whether it may be sent to an upstream that may have seen it.
    pub(super) fn is_repeatable(&self) -> bool {
        self.repeatable.is_some()
    }

    /// Frees what was copied of the body.
    pub(super) fn release(&self) {
        self.body.release();
    }

    fn request(&self) -> Option<Request> {
        let body: Body = self.body.again()?;
        Some(Request::new(self.head.unpack(), body, self.cx.clone()))
    }
}

// === impl Resend ===

impl Resend {
    /// Given because not one byte left: the copy if there is one, else the request handed back;
    /// `None` if its body was read and is lost.
    pub(super) fn unsent(unsent: Unsent, kept: Option<&Kept>) -> Option<Self> {
        match kept {
            Some(kept) => kept.request().map(Self),
            None => unsent.into_request().map(Self),
        }
    }

    /// A request that may be sent twice; `None` without permission, or if its body is lost.
    pub(super) fn repeat(kept: &Kept) -> Option<Self> {
        let _leave: &Repeatable = kept.repeatable.as_ref()?;
        kept.request().map(Self)
    }

    /// The context of the exchange.
    pub(super) fn cx(&self) -> &Context {
        &self.0.cx
    }

    /// The request, as attempt `number`.
    pub(super) fn into_request(mut self, number: u32) -> Request {
        set_number(&mut self.0.parts.headers, number);
        self.0
    }
}

/// Tells the upstream which attempt this is.
pub(super) fn set_number(headers: &mut HeaderMap, number: u32) {
    let last = NUMBERS.len() - 1;
    let index = usize::try_from(number.saturating_sub(1)).unwrap_or(last).min(last);
    fields::set(headers, X_SLUICE_ATTEMPT, HeaderValue::from_static(NUMBERS[index]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::{Error, Kind, Sent},
        middleware::testing::{fed, request},
    };

    fn kept(method: &str) -> Kept {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Kept::of(&mut request(method, "/", Body::full("order")))
    }

    #[test]
    fn what_may_have_been_seen_is_sent_again_only_by_a_method_that_may_come_twice() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(Resend::repeat(&kept(method)).is_some(), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "PROPFIND", "get", "Put", "X", "QUERY"] {
            assert!(Resend::repeat(&kept(method)).is_none(), "{method}");
        }
    }

    #[test]
    fn only_an_error_that_says_so_gives_leave_whatever_the_method() {
        for sent in [Sent::Nothing, Sent::MaybeSeen] {
            for kind in [Kind::UpstreamReset, Kind::UpstreamClosedIdle, Kind::UpstreamTimeoutTry] {
                let unsent = Error::new(kind(sent)).take_unsent();
                assert_eq!(unsent.is_some(), sent == Sent::Nothing);
                let resend = unsent.and_then(|unsent| Resend::unsent(unsent, Some(&kept("POST"))));
                assert_eq!(resend.is_some(), sent == Sent::Nothing);
            }
        }
    }

    #[test]
    fn a_body_that_is_lost_is_not_sent_again_even_if_nothing_left() {
        let (_feed, body) = fed();
        let kept = Kept::of(&mut request(Method::PUT, "/", body));
        kept.release();
        assert!(Resend::repeat(&kept).is_none());
        let unsent = Error::new(Kind::UpstreamConnect).take_unsent().unwrap();
        assert!(Resend::unsent(unsent, Some(&kept)).is_none());
    }

    #[test]
    fn the_upstream_sees_the_number() {
        let number = |n| {
            let request = Resend::repeat(&kept("GET")).unwrap().into_request(n);
            request.parts.headers[X_SLUICE_ATTEMPT].to_str().unwrap().to_owned()
        };
        assert_eq!(number(2), "2");
        assert_eq!(number(MAX_ATTEMPTS), "10");
    }
}
