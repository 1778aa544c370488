//! The part of DER needed for certificates: elements of definite length, one after another. Pure.

/// A number of any length.
pub const INTEGER: u8 = 0x02;
/// Identifies a kind of thing.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// A time with two digits for its year.
pub const UTC_TIME: u8 = 0x17;
/// A time with four digits for its year.
pub const GENERALIZED_TIME: u8 = 0x18;
/// Several elements in order.
pub const SEQUENCE: u8 = 0x30;
/// Several elements in any order.
pub const SET: u8 = 0x31;

/// The next element: its tag and content (X.690, 8.1, definite lengths only).
pub fn element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&[length], rest) = rest.split_first_chunk::<1>()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((tag, content))
}

/// The content of the next element, if it is of this kind.
pub fn tagged<'a>(der: &mut &'a [u8], expected: u8) -> Option<&'a [u8]> {
    element(der).filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
}
