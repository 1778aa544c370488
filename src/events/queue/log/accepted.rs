//! Damage that an operator has accepted: offsets that are lost but no longer stop the log.
//!
//! `GAPS`, a small text file in the log's directory: a line that names the format, one with two offsets
//! for each range, and one with the checksum of those before. A damaged file accepts nothing.

use std::{fmt::Write as _, io, ops::Range};

use super::{chain, settings::Place};
use crate::events::queue::Offset;

const GAPS: &str = "GAPS";
const TITLE: &str = "sluice gaps 1\n";
const LIMIT: u64 = 1 << 20;

/// Ranges of offsets, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted(Vec<Range<Offset>>);

impl Accepted {
    /// Reads what was accepted in this log.
    pub(super) fn read(place: &Place) -> io::Result<Self> {
        let Some(bytes) = chain::read_whole(place, GAPS, LIMIT)? else {
            return Ok(Self::default());
        };
        let accepted = std::str::from_utf8(&bytes).ok().and_then(Self::decode);
        Ok(accepted.unwrap_or_else(|| {
            tracing::error!(log = %place.id, "GAPS is damaged: none of the losses it accepted count; with the gateway stopped, `sluice queue verify --repair` accepts them again");
            Self::default()
        }))
    }

    /// Accepts more ranges, durably.
    pub(super) fn add(&mut self, place: &Place, more: Vec<Range<Offset>>) -> io::Result<()> {
        let mut ranges = self.0.clone();
        ranges.extend(more);
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<Offset>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let new = Self(merged);
        place.replace(GAPS, new.encode().as_bytes())?;
        place.sync_dir()?;
        *self = new;
        Ok(())
    }

    /// Whether all offsets of `range` are accepted.
    pub(super) fn covers(&self, range: &Range<Offset>) -> bool {
        self.0.iter().any(|it| it.start <= range.start && range.end <= it.end)
    }

    fn encode(&self) -> String {
        let mut text = TITLE.to_owned();
        for range in &self.0 {
            // Writing to a string does not fail.
            writeln!(text, "{} {}", range.start, range.end).ok();
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text + &format!("{crc:08x}\n")
    }

    fn decode(text: &str) -> Option<Self> {
        let (covered, crc) = text.split_at_checked(text.len().checked_sub(9)?)?;
        if crc != format!("{:08x}\n", crc32c::crc32c(covered.as_bytes())) {
            return None;
        }
        let lines = covered.strip_prefix(TITLE)?.lines();
        let range = |line: &str| {
            let (start, end) = line.split_once(' ')?;
            Some(Offset(start.parse().ok()?)..Offset(end.parse().ok()?))
        };
        lines.map(range).collect::<Option<Vec<_>>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_read_as_it_was_written() {
        let accepted = Accepted(vec![Offset(3)..Offset(5), Offset(9)..Offset(10)]);
        let text = accepted.encode();
        assert_eq!(Accepted::decode(&text), Some(accepted.clone()));
        assert!(accepted.covers(&(Offset(4)..Offset(5))));
        assert!(!accepted.covers(&(Offset(4)..Offset(10))));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let read = String::from_utf8(bytes).ok().and_then(|text| Accepted::decode(&text));
            assert_eq!(read, None, "a flipped bit at {at}");
        }
    }
}
