//! Who is limited: a selector's value as a 64-bit fingerprint.
//!
//! Pure. A fingerprint is SipHash of the value under a random key of each store, so that nobody can
//! choose values that collide. Two values that collide by chance (a million keys: once in 30
//! million stores) share one bucket: the limit is then stricter for these two, never laxer.
//!
//! If a selector yields nothing, the client's address is used instead, for IPv6 its /64. Selected
//! values and addresses never share a bucket: `header:x-user` cannot spend an address's tokens.
//! Costs a hash; no allocation unless the selector has to join or decode.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    num::NonZeroU64,
};

use crate::http::{
    ClientIp,
    selector::{Input, Part, Selector},
};

/// `rate_limits.*.key`. Two keys with the same meaning are equal, however they are written.
#[derive(Clone, Debug)]
pub struct Key {
    selector: Selector,
    written: Box<str>,
}

/// Identifies a key in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(NonZeroU64);

// === impl Key ===

impl Key {
    /// A key of these parts; `written` is its text in the configuration.
    pub fn new(selector: Selector, written: impl Into<Box<str>>) -> Self {
        Self { selector, written: written.into() }
    }

    /// Its text in the configuration.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Its parts.
    pub fn parts(&self) -> &[Part] {
        self.selector.parts()
    }

    /// Whether it is known only after authentication.
    pub fn needs_principal(&self) -> bool {
        self.parts().iter().any(|part| matches!(part, Part::Claim(_) | Part::Principal))
    }

    /// The key of this request under `seed`.
    pub fn fingerprint(&self, input: &Input<'_>, seed: &RandomState) -> Fingerprint {
        let mut hasher = seed.build_hasher();
        hasher.write_u8(1);
        if self.hash_parts(input, &mut hasher).is_none() {
            // Half a key would be another key: discard what was hashed so far.
            hasher = seed.build_hasher();
            hasher.write_u8(0);
            hash_client(input.client_ip, &mut hasher);
        }
        Fingerprint(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }

    fn hash_parts(&self, input: &Input<'_>, hasher: &mut impl Hasher) -> Option<()> {
        if self.parts().is_empty() {
            return None;
        }
        for part in self.parts() {
            if let Part::ClientIp = part {
                hash_client(Some(input.client_ip?), hasher);
            } else {
                // The number of parts is fixed and text is hashed with a terminator: unambiguous.
                part.extract(input)?.hash(hasher);
            }
        }
        Some(())
    }

    /// The key of this request as text: the value, or the address used in its place.
    pub fn told(&self, input: &Input<'_>) -> String {
        let client = || match input.client_ip {
            Some(ip) => ip.limiter_key().to_string(),
            None => "an unknown address".to_owned(),
        };
        let value = |part: &Part| match part {
            Part::ClientIp => input.client_ip.map(|_| client()),
            part => part.extract(input).map(Cow::into_owned),
        };
        let values: Option<Vec<_>> = self.parts().iter().map(value).collect();
        match values {
            Some(values) if !values.is_empty() => values.join(", "),
            _ => format!("{}, for `{}` yields nothing", client(), self.written),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.selector == other.selector
    }
}

impl Eq for Key {}

fn hash_client(client: Option<ClientIp>, hasher: &mut impl Hasher) {
    match client.map(ClientIp::limiter_key) {
        Some(ClientIp::Ip(IpAddr::V4(ip))) => hasher.write_u32(ip.to_bits()),
        Some(ClientIp::Ip(IpAddr::V6(ip))) => hasher.write_u128(ip.to_bits()),
        Some(ClientIp::Unix) => hasher.write_u8(1),
        // A request without a client address is a bug of ours: all of them share a bucket.
        None => hasher.write_u8(0),
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Its bits; never zero.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// A fingerprint with these bits, for tests and benches of a store.
    pub fn from_bits(bits: u64) -> Self {
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::http::context::Params;

    fn key(parts: &[&str]) -> Key {
        let selector = Selector::new(parts.iter().map(|part| Part::parse(part).unwrap()));
        Key::new(selector, parts.join(", "))
    }

    fn ip(text: &str) -> ClientIp {
        ClientIp::Ip(text.parse().unwrap())
    }

    struct Asked<'a> {
        seed: RandomState,
        headers: HeaderMap,
        claims: Option<&'a serde_json::Value>,
    }

    impl Asked<'_> {
        fn input(&self, client: ClientIp) -> Input<'_> {
            Input {
                method: &Method::GET,
                headers: &self.headers,
                query: None,
                host: Some("a"),
                client_ip: Some(client),
                params: Params::default(),
                principal: self.claims.map(|_| "shop:alice"),
                claims: self.claims,
                body: None,
                response_headers: None,
                response_body: None,
            }
        }

        fn of(&self, parts: &[&str], client: &str) -> Fingerprint {
            key(parts).fingerprint(&self.input(ip(client)), &self.seed)
        }
    }

    fn asked(user: Option<&str>) -> Asked<'static> {
        let headers = user.map(|user| ("x-user".parse().unwrap(), user.parse().unwrap()));
        Asked { seed: RandomState::new(), headers: headers.into_iter().collect(), claims: None }
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let asked = asked(None);
        let of = |client| asked.of(&["client_ip"], client);
        assert_eq!(of("2001:db8:1:2::7"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::7"), of("2001:db8:1:3::7"));
        assert_eq!(of("192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        let unix = key(&["client_ip"]).fingerprint(&asked.input(ClientIp::Unix), &asked.seed);
        assert_ne!(unix, of("192.0.2.1"));
    }

    #[test]
    fn a_selector_that_yields_nothing_gives_way_to_the_address() {
        let nobody = asked(None);
        for parts in [&["header:x-user"][..], &["host", "header:x-user"], &["claim:sub"]] {
            assert_eq!(nobody.of(parts, "192.0.2.1"), nobody.of(parts, "192.0.2.1"));
            assert_ne!(nobody.of(parts, "192.0.2.1"), nobody.of(parts, "192.0.2.2"));
        }
        let told = key(&["header:x-user"]).told(&nobody.input(ip("2001:db8::1")));
        assert_eq!(told, "2001:db8::, for `header:x-user` yields nothing");
    }

    #[test]
    fn a_value_never_meets_what_stands_in_for_it() {
        let seed = RandomState::new();
        let claimed = Asked { seed: seed.clone(), ..asked(Some("192.0.2.1")) };
        let absent = Asked { seed, ..asked(None) };
        let part = &["header:x-user"];
        assert_ne!(claimed.of(part, "192.0.2.1"), absent.of(part, "192.0.2.1"));
        assert_eq!(claimed.of(part, "192.0.2.1"), claimed.of(part, "198.51.100.1"));
    }

    #[test]
    fn claims_and_principals_wait_for_auth() {
        assert!(key(&["claim:sub"]).needs_principal());
        assert!(key(&["host", "principal"]).needs_principal());
        assert!(!key(&["client_ip", "header:x-user", "path:id"]).needs_principal());
        let claims = json!({ "sub": "u1" });
        let alice = Asked { claims: Some(&claims), ..asked(None) };
        let part = &["claim:sub"];
        assert_eq!(alice.of(part, "192.0.2.1"), alice.of(part, "192.0.2.2"));
        assert_eq!(key(part).told(&alice.input(ip("192.0.2.1"))), "u1");
    }

    #[test]
    fn stores_do_not_agree_on_fingerprints() {
        assert_ne!(asked(None).of(&["host"], "192.0.2.1"), asked(None).of(&["host"], "192.0.2.1"));
    }
}
