//! `Prefer` (RFC 7240): whether a client waits for the result. Pure.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::http::names::PREFER;

/// The longest a client waits, in seconds, whatever it prefers.
const LONGEST: u64 = 30;

/// What a client prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Preference {
    /// `respond-async`.
    pub(super) is_async: bool,
    /// `wait`: for the result, at most this many seconds.
    pub(super) wait: Option<u64>,
}

// === impl Preference ===

impl Preference {
    /// From the fields of a request. If a preference is repeated, the first counts (RFC 7240, 2).
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let lines = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for preference in lines.flat_map(|line| line.split(',')) {
            let token = preference.split(';').next().unwrap_or_default();
            let (name, value) = token.split_once('=').unwrap_or((token, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("respond-async") {
                found.is_async = true;
            } else if name.eq_ignore_ascii_case("wait") && found.wait.is_none() {
                found.wait = value.parse().ok().map(|wait: u64| wait.min(LONGEST));
            }
        }
        found
    }

    /// Where the route lets nobody wait.
    pub(super) fn without_wait(self) -> Self {
        Self { wait: None, ..self }
    }

    /// How long to wait for the result.
    pub(super) fn patience(self) -> Option<Duration> {
        self.wait.filter(|wait| *wait > 0).map(Duration::from_secs)
    }

    /// `Preference-Applied`.
    pub(super) fn applied(self) -> Option<HeaderValue> {
        let text = match (self.is_async, self.wait) {
            (false, None) => return None,
            (true, None) => "respond-async".to_owned(),
            (false, Some(wait)) => format!("wait={wait}"),
            (true, Some(wait)) => format!("respond-async, wait={wait}"),
        };
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Preference {
        let fields = lines.iter().map(|it| (PREFER, HeaderValue::from_str(it).unwrap()));
        Preference::of(&fields.collect())
    }

    #[test]
    fn preferences_are_read_as_the_standard_has_them() {
        for (lines, is_async, wait) in [
            (&[][..], false, None),
            (&["respond-async"], true, None),
            (&["Respond-Async; foo=\"a\", WAIT=10"], true, Some(10)),
            (&["wait=\"5\""], false, Some(5)),
            (&["return=minimal", "wait = 7 , respond-async"], true, Some(7)),
            (&["wait=1, wait=2"], false, Some(1)),
            (&["wait=9999"], false, Some(LONGEST)),
            (&["wait=-1", "wait", "wait=", "waiting=3"], false, None),
        ] {
            assert_eq!(of(lines), Preference { is_async, wait }, "{lines:?}");
        }
    }

    #[test]
    fn what_was_applied_is_told() {
        let told =
            |lines: &[&str]| of(lines).applied().map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["respond-async"]).unwrap(), "respond-async");
        assert_eq!(told(&["respond-async, wait=99"]).unwrap(), "respond-async, wait=30");
        assert_eq!(told(&["wait=0"]).unwrap(), "wait=0");
        assert_eq!(of(&["wait=0"]).patience(), None);
        assert_eq!(of(&["wait=3"]).without_wait().applied(), None);
    }
}
