//! Changes to a map of fields, as code that all callers share.
//!
//! The compiler would copy the search of the map into each place that every request comes by, and
//! there are a dozen: together they are larger than what they do, and than what the processor's
//! instruction cache has room for.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Makes `value` the only one of `name`.
#[inline(never)]
pub fn set(fields: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    fields.insert(name, value);
}

/// Adds `value` to those of `name`.
#[inline(never)]
pub fn add(fields: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    fields.append(name, value);
}

/// Removes all values of `name`; returns the first.
#[inline(never)]
pub fn take(fields: &mut HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    fields.remove(name)
}
