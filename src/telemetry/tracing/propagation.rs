//! W3C Trace Context (level 2): reads and writes `traceparent` and `tracestate`. Pure.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceId};

use crate::http::hex;

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The caller may have recorded its part.
pub const SAMPLED: u8 = 0x01;
/// The right-most 56 bits of the trace ID are random. Passed on with the ID.
pub const RANDOM: u8 = 0x02;

/// The length of a `traceparent` of version 00.
const LEN: usize = 55;
/// The maximum number of members in `tracestate`.
const MAX_MEMBERS: usize = 32;
/// The maximum length of a key or a value in it.
const MAX_PART: usize = 256;

/// The content of a valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The whole trace; not all zero.
    pub trace_id: TraceId,
    /// The caller's span; not all zero.
    pub span_id: SpanId,
    /// [`SAMPLED`], [`RANDOM`]; no others.
    pub flags: u8,
}

// === impl TraceParent ===

impl TraceParent {
    /// Parsed from a request's fields. `None` if `traceparent` is missing, invalid, or repeated,
    /// because then it is unknown which one is meant.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Parses `version-trace-parent-flags`. Versions above 00 may have more after that.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(LEN)?;
        let ends_well = match &head[..2] {
            b"ff" => false,
            b"00" => rest.is_empty(),
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !ends_well || [2, 35, 52].iter().any(|&at| head[at] != b'-') {
            return None;
        }
        number(&head[..2])?;
        let trace_id = number(&head[3..35])?;
        let span_id = u64::try_from(number(&head[36..52])?).ok()?;
        let flags = u8::try_from(number(&head[53..])?).ok()?;
        (trace_id != 0 && span_id != 0).then(|| Self {
            trace_id: trace_id.into(),
            span_id: span_id.into(),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// The field's value, version 00. Allocates once.
    pub fn encode(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(&trace_digits(self.trace_id));
        text[36..52].copy_from_slice(&hex::digits(u64::from_be_bytes(self.span_id.to_bytes())));
        text[53..].copy_from_slice(&hex::digits(self.flags.into())[14..]);
        // With an owner, clones of the value share it from the start.
        HeaderValue::from_maybe_shared(Bytes::from_owner(text))
            .unwrap_or(HeaderValue::from_static("-"))
    }

    /// Whether the caller samples the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// The hexadecimal digits of a trace ID, as in the access log.
pub fn trace_digits(id: TraceId) -> [u8; 32] {
    hex::long_digits(u128::from_be_bytes(id.to_bytes()))
}

/// The value of at most 32 lower-case hexadecimal digits.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Whether all `tracestate` fields together are a valid list. An invalid one is removed as a whole:
/// half a list is another list.
pub fn is_valid_state(headers: &HeaderMap) -> bool {
    let mut keys: [&[u8]; MAX_MEMBERS] = [&[]; MAX_MEMBERS];
    let mut count = 0;
    let values = headers.get_all(TRACESTATE).iter();
    for member in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = (&member[..at], &member[at + 1..]);
        let is_new = count < MAX_MEMBERS && !keys[..count].contains(&key);
        if !is_new || !is_state_key(key) || !is_state_value(value) {
            return false;
        }
        keys[count] = key;
        count += 1;
    }
    true
}

fn is_state_key(key: &[u8]) -> bool {
    let is_inner = |byte: &u8| match byte {
        b'a'..=b'z' | b'0'..=b'9' => true,
        _ => b"_-*/@".contains(byte),
    };
    (1..=MAX_PART).contains(&key.len())
        && (key[0].is_ascii_lowercase() || key[0].is_ascii_digit())
        && key.iter().all(is_inner)
}

fn is_state_value(value: &[u8]) -> bool {
    (1..=MAX_PART).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(name: &HeaderName, values: &[&[u8]]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_bytes(value).unwrap());
        values.map(|value| (name.clone(), value)).collect()
    }

    #[test]
    fn a_valid_traceparent_is_read_and_written_as_it_is() {
        let parent = TraceParent::parse(VALID.as_bytes()).unwrap();
        assert_eq!(&trace_digits(parent.trace_id), b"0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id.to_string(), "b7ad6b7169203331");
        assert!(parent.is_sampled());
        assert_eq!(parent.encode(), VALID);
        let unsampled = TraceParent::parse(&[&VALID.as_bytes()[..53], b"00"].concat()).unwrap();
        assert!(!unsampled.is_sampled());
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = VALID.replacen("00-", "01-", 1) + "-more";
        let parent = TraceParent::parse(later.as_bytes()).unwrap();
        assert_eq!(parent.encode(), VALID, "we say what we know");
        let flags = VALID.replace("-01", "-ff");
        let parent = TraceParent::parse(flags.as_bytes()).unwrap();
        assert_eq!(parent.flags, SAMPLED | RANDOM, "unknown flags are not handed on");
    }

    #[test]
    fn anything_else_is_no_traceparent() {
        for invalid in [
            "",
            "-",
            "00",
            &VALID[..54],
            &format!("{VALID}-more"),
            &format!("{VALID}0"),
            &format!(" {VALID}"),
            &VALID.replacen("00-", "01-", 1).replace("-01", "-01more"),
            &VALID.replacen("00-", "ff-", 1),
            &VALID.replacen("00-", "0g-", 1),
            &VALID.replacen("00-", "0-", 1),
            &VALID.replace("-01", "-0x"),
            &VALID.to_uppercase(),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace('-', "_"),
            &"-".repeat(55),
        ] {
            assert_eq!(TraceParent::parse(invalid.as_bytes()), None, "{invalid}");
        }
    }

    #[test]
    fn two_traceparents_are_none() {
        let one = of(&TRACEPARENT, &[VALID.as_bytes()]);
        assert!(TraceParent::of(&one).is_some());
        let two = of(&TRACEPARENT, &[VALID.as_bytes(), VALID.as_bytes()]);
        assert_eq!(TraceParent::of(&two), None);
    }

    #[test]
    fn a_tracestate_is_a_list_of_distinct_members() {
        let many = |count: usize| {
            (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",").into_bytes()
        };
        for valid in [
            &b""[..],
            b"a=1",
            b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            b"a=1 ,\t b=2,,",
            b"1a-2@v/e*n_d=x y",
            &many(32),
        ] {
            let text = String::from_utf8_lossy(valid);
            assert!(is_valid_state(&of(&TRACESTATE, &[valid])), "{text}");
        }
        for invalid in [
            &b"a"[..],
            b"=1",
            b"a=",
            b"a=1,a=2",
            b"A=1",
            b"@a=1",
            b"a=1=2",
            b"a=\xff",
            b"a=x\ty",
            b"caf\xe9=1",
            b"a b=1",
            &many(33),
            &[b"a=", &[b'v'; 257][..]].concat(),
            &[&[b'k'; 257][..], b"=v"].concat(),
        ] {
            let text = String::from_utf8_lossy(invalid);
            assert!(!is_valid_state(&of(&TRACESTATE, &[invalid])), "{text}");
        }
        assert!(is_valid_state(&of(&TRACESTATE, &[b"a=1", b"b=2"])), "fields are one list");
        assert!(!is_valid_state(&of(&TRACESTATE, &[b"a=1", b"a=2"])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(parent: Vec<u8>, state: Vec<u8>) {
            // What is accepted is encoded in the same form.
            if let Some(read) = TraceParent::parse(&parent) {
                let said = read.encode();
                prop_assert_eq!(TraceParent::parse(said.as_bytes()), Some(read));
            }
            if let Ok(value) = HeaderValue::from_bytes(&state) {
                is_valid_state(&HeaderMap::from_iter([(TRACESTATE, value)]));
            }
        }

        #[test]
        fn bytes_that_look_like_one_are_read_without_a_panic(
            mut bytes in "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?",
            at in 0_usize..55,
            byte: u8,
        ) {
            let read = TraceParent::parse(bytes.as_bytes());
            if let Some(read) = read {
                let said = read.encode();
                prop_assert_eq!(&bytes.as_bytes()[3..52], &said.as_bytes()[3..52]);
            }
            bytes.replace_range(at..=at, &char::from(byte & 0x7f).to_string());
            TraceParent::parse(bytes.as_bytes());
        }

        #[test]
        fn whatever_is_encoded_is_read_again(trace in 1_u128.., span in 1_u64.., flags in 0_u8..4) {
            let parent =
                TraceParent { trace_id: trace.into(), span_id: span.into(), flags };
            prop_assert_eq!(TraceParent::parse(parent.encode().as_bytes()), Some(parent));
        }
    }
}
