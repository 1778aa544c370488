//! Where a request may carry a token, and how it is found there. Pure.
//!
//! The credential is forwarded unchanged, because the service may check it again. To stop it at the
//! gateway, remove the field (`request_headers: { remove: [authorization] }`) or the query
//! (`rewrite: { path: "{path}" }`). For a query parameter that carries a token, the access log
//! shows only the name.

use std::borrow::Cow;

use http::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
};

use crate::{error::AuthFault, http::query};

/// Where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer` (RFC 6750, 2.1).
    Header,
    /// A cookie of this name.
    Cookie(Box<str>),
    /// A query parameter of this name.
    Query(Box<str>),
}

/// The token in the first of these places that has one; `None` if none has. Two tokens in one place
/// are malformed: two readers might each use a different one. As bytes, because a token that is
/// known needs no look at each of them.
pub fn token<'a>(
    places: &[Place],
    headers: &'a HeaderMap,
    query: Option<&'a str>,
) -> Result<Option<Cow<'a, [u8]>>, AuthFault> {
    for place in places {
        let found = match place {
            Place::Header => bearer(headers)?.map(Cow::Borrowed),
            Place::Cookie(name) => {
                single(cookies(headers, name))?.map(|token| Cow::Borrowed(token.as_bytes()))
            }
            Place::Query(name) => {
                single(query.into_iter().flat_map(|q| query::values(q, name)))?.map(bytes)
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn single<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, AuthFault> {
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(_) => Err(AuthFault::Malformed),
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// A credential of another scheme, such as Basic, is not a token.
fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, AuthFault> {
    let Some(value) = single(headers.get_all(AUTHORIZATION).iter())? else { return Ok(None) };
    let value = value.as_bytes();
    let space = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
    let (scheme, mut token) = value.split_at(space);
    while let [b' ', rest @ ..] | [rest @ .., b' '] = token {
        token = rest;
    }
    Ok(scheme.eq_ignore_ascii_case(b"bearer").then_some(token))
}

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(COOKIE).iter();
    fields.filter_map(move |field| query::cookie(std::str::from_utf8(field.as_bytes()).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        places: &[Place],
        fields: &[(&'static str, &'static str)],
        query: Option<&str>,
    ) -> Result<Option<String>, AuthFault> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let found = token(places, &headers, query)?;
        Ok(found.map(|token| String::from_utf8_lossy(&token).into_owned()))
    }

    #[test]
    fn the_first_place_that_has_one_is_taken() {
        let places = [Place::Header, Place::Cookie("sid".into()), Place::Query("t".into())];
        let found = |fields: &[_], query| find(&places, fields, query).unwrap();
        assert_eq!(found(&[("authorization", "Bearer a")], Some("t=c")).as_deref(), Some("a"));
        assert_eq!(found(&[("authorization", "bEARER  a ")], None).as_deref(), Some("a"));
        assert_eq!(found(&[("cookie", "x=y; sid=b")], Some("t=c")).as_deref(), Some("b"));
        assert_eq!(found(&[("authorization", "Basic a")], Some("t=%63")).as_deref(), Some("c"));
        assert_eq!(found(&[("authorization", "Bearer")], None).as_deref(), Some(""));
        assert_eq!(found(&[("authorization", "Bearera b")], None), None);
        assert_eq!(find(&places[1..2], &[("authorization", "Bearer a")], Some("t=c")), Ok(None));
    }

    #[test]
    fn two_in_one_place_are_malformed() {
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(find(&[Place::Header], &twice, None), Err(AuthFault::Malformed));
        let query = Some("t=a&t=b");
        assert_eq!(find(&[Place::Query("t".into())], &[], query), Err(AuthFault::Malformed));
    }
}
