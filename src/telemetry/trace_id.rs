//! The trace a request belongs to, as its `traceparent` says (W3C Trace Context).

use http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A trace's ID: 32 lower-case hexadecimal digits, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

// === impl TraceId ===

impl TraceId {
    /// The trace of a request with these fields; `None` without a valid `traceparent`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(TRACEPARENT)?.as_bytes())
    }

    /// Reads `version-trace-parent-flags`. A version above 00 may have more behind it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(55)?;
        let ends_well = match &head[..2] {
            b"ff" => false,
            b"00" => rest.is_empty(),
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let is_split = [2, 35, 52].iter().all(|&at| head[at] == b'-');
        let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let (version, trace, parent) = (&head[..2], &head[3..35], &head[36..52]);
        let is_set = |id: &[u8]| id.iter().any(|&digit| digit != b'0');
        let is_valid = ends_well
            && is_split
            && [version, trace, parent, &head[53..]].into_iter().all(is_hex)
            && is_set(trace)
            && is_set(parent);
        is_valid.then(|| trace.try_into().ok().map(Self)).flatten()
    }

    /// Its digits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_traceparent_names_its_trace() {
        let trace = TraceId::parse(VALID.as_bytes()).unwrap();
        assert_eq!(trace.as_bytes(), b"0af7651916cd43dd8448eb211c80319c");
        let later = VALID.replacen("00-", "01-", 1) + "-more";
        assert!(TraceId::parse(later.as_bytes()).is_some());
    }

    #[test]
    fn anything_else_names_none() {
        for invalid in [
            "",
            &VALID[..54],
            &format!("{VALID}-more"),
            &VALID.replacen("00-", "ff-", 1),
            &VALID.to_uppercase(),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace('-', "_"),
        ] {
            assert_eq!(TraceId::parse(invalid.as_bytes()), None, "{invalid}");
        }
    }
}
