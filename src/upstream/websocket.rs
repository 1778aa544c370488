//! Finds where the frames of a WebSocket end, so that we can send one of our own (RFC 6455, 5.2).
//! Pure.

use smallvec::SmallVec;

/// 1001: going away.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
/// An unfragmented close frame.
const CLOSE: u8 = 0x88;
/// The bit before a length that says that a mask follows.
const MASKED: u8 = 0x80;
/// A length field that says: the length is in the next two bytes.
const TWO: u8 = 126;
const EIGHT: u8 = 127;

/// Follows the frames of one direction. Costs a look at each frame's head.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// What has passed so far of the current head.
    head: SmallVec<[u8; 14]>,
    /// What is left of the current payload.
    left: u64,
    is_closed: bool,
}

// === impl Frames ===

impl Frames {
    /// `bytes` have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= payload as u64;
            bytes = &bytes[payload..];
            let Some((&byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            self.head.push(byte);
            if let Some(length) = payload_length(&self.head) {
                self.is_closed |= self.head[0] & 0xf == CLOSE & 0xf;
                self.left = length;
                self.head.clear();
            }
        }
    }

    /// Whether another frame may follow here: the last one is complete and was not a close.
    pub(super) fn may_follow(&self) -> bool {
        self.head.is_empty() && self.left == 0 && !self.is_closed
    }
}

/// A close frame with 1001; with `mask`, as a client has to send it.
pub(super) fn going_away(mask: Option<[u8; 4]>) -> SmallVec<[u8; 8]> {
    let [high, low] = GOING_AWAY;
    match mask {
        None => SmallVec::from_slice(&[CLOSE, 2, high, low]),
        Some([a, b, c, d]) => {
            SmallVec::from_slice(&[CLOSE, MASKED | 2, a, b, c, d, high ^ a, low ^ b])
        }
    }
}

/// The length of the payload behind this head, once the head is complete.
fn payload_length(head: &[u8]) -> Option<u64> {
    let &[_, second, ref rest @ ..] = head else { return None };
    let extended = match second & !MASKED {
        TWO => 2,
        EIGHT => 8,
        _ => 0,
    };
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    if rest.len() < extended + mask {
        return None;
    }
    let length = rest[..extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    Some(if extended == 0 { u64::from(second & !MASKED) } else { length })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const TEXT: u8 = 0x81;

    fn frame(first: u8, payload: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { MASKED } else { 0 };
        let mut frame = match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(length @ 0..126), _) => vec![first, mask | length],
            (_, Ok(length)) => [&[first, mask | TWO][..], &length.to_be_bytes()].concat(),
            _ => [&[first, mask | EIGHT][..], &(payload as u64).to_be_bytes()].concat(),
        };
        frame.resize(frame.len() + if is_masked { 4 } else { 0 } + payload, CLOSE);
        frame
    }

    fn passed(bytes: &[u8]) -> Frames {
        let mut frames = Frames::default();
        frames.pass(bytes);
        frames
    }

    #[test]
    fn a_frame_may_follow_a_whole_one_of_any_length() {
        assert!(Frames::default().may_follow());
        for payload in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            for is_masked in [false, true] {
                let frame = frame(TEXT, payload, is_masked);
                assert!(passed(&frame).may_follow(), "{payload} {is_masked}");
                assert!(!passed(&frame[..frame.len() - 1]).may_follow(), "{payload} {is_masked}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_close() {
        assert!(!passed(&going_away(None)).may_follow());
        assert!(!passed(&going_away(Some([1, 2, 3, 4]))).may_follow());
    }

    #[test]
    fn a_masked_close_says_the_same() {
        let masked = going_away(Some([1, 2, 3, 4]));
        assert_eq!([masked[6] ^ 1, masked[7] ^ 2], GOING_AWAY);
        assert_eq!(going_away(None)[2..], GOING_AWAY);
    }

    #[test]
    fn a_length_that_no_frame_has_ends_nowhere() {
        let frames = passed(&[&[TEXT, EIGHT][..], &[0xff; 8], &[0; 100]].concat());
        assert!(!frames.may_follow());
    }

    proptest! {
        #[test]
        fn pieces_are_as_good_as_the_whole(
            frames in vec((0..70_000_usize, any::<bool>()), 1..5),
            pieces in vec(1..5_000_usize, 1..5),
        ) {
            let bytes: Vec<u8> =
                frames.iter().flat_map(|&(payload, is_masked)| frame(TEXT, payload, is_masked)).collect();
            let mut piecewise = Frames::default();
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                piecewise.pass(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(piecewise.may_follow());
        }
    }
}
